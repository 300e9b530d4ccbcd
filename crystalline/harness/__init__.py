"""The field's tasks, by EleutherAI's lm-evaluation-harness; all but `options` needs the extra."""
