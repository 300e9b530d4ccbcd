"""From continuous vectors to codes and back."""
