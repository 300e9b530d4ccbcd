#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"

const char cr_usage[] =
    "crystal -m MODEL [-p PROMPT | -f FILE] [-n TOKENS] [-t TEMPERATURE] [--top-k K] [--top-p P]\n"
    "        [--min-p P] [--seed SEED] [--threads N] [--bench] [--logits] [--ids] [--tokenize]\n"
    "        [--info] [--no-stop] [--published] [--kernels scalar|avx2|avx512|neon]\n"
    "\n"
    "-m           model file (.crystal)\n"
    "-p           text to continue; ids with --ids; nothing: the start of a document\n"
    "-f           file with the prompt\n"
    "-n           tokens to add (100)\n"
    "-t           divides the logits (0.8); 0 takes the likeliest token\n"
    "--top-k      draw from so many likeliest tokens (0: all)\n"
    "--top-p      from the fewest likeliest with this probability (1: all)\n"
    "--min-p      from those with this share of the likeliest one's probability (0: all)\n"
    "--seed       of the draws (0)\n"
    "--threads    (1)\n"
    "--ids        read and write ids in place of text\n"
    "--logits     a line for each step: the id drawn, then the logits of all tokens\n"
    "--tokenize   the ids of the prompt, and no more\n"
    "--info       sizes of the model, and no text\n"
    "--bench      speed to standard error\n"
    "--no-stop    go on behind the token between documents\n"
    "--published  compute old files as their published runtime did, errors included\n"
    "--kernels    instruction set (the best that the machine has)\n";

/* A whole number up to `most`. */
static bool whole(const char *text, uint64_t most, uint64_t *value) {
    char *end;
    errno = 0;
    const unsigned long long found = strtoull(text, &end, 10);
    *value = found;
    return errno == 0 && end != text && *end == '\0' && text[0] != '-' && found <= most;
}

/* A number from `least` to `most`. */
static bool real(const char *text, float least, float most, float *value) {
    char *end;
    *value = strtof(text, &end);
    return end != text && *end == '\0' && *value >= least && *value <= most;
}

/* Options that stand alone. */
static bool *flag(Options *options, const char *name) {
    const struct { const char *name; bool *target; } flags[] = {
        {"--bench", &options->bench}, {"--logits", &options->logits}, {"--ids", &options->ids},
        {"--tokenize", &options->tokenize}, {"--info", &options->info}, {"--published", &options->published},
        {"--no-stop", &options->no_stop}, {"--help", &options->help}, {"-h", &options->help},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strcmp(name, flags[i].name) == 0)
            return flags[i].target;
    return NULL;
}

/* 1: done, 0: the value does not fit, -1: no such option. */
static int assign(Options *options, const char *name, const char *value) {
    uint64_t number = 0;
    int good;
    if (strcmp(name, "-m") == 0)
        options->model = value;
    else if (strcmp(name, "-p") == 0)
        options->prompt = value;
    else if (strcmp(name, "-f") == 0)
        options->prompt_file = value;
    else if (strcmp(name, "--kernels") == 0)
        options->kernels = value;
    else if (strcmp(name, "-t") == 0)
        return real(value, 0.0f, 1e30f, &options->temperature);
    else if (strcmp(name, "--top-p") == 0)
        return real(value, 0.0f, 1.0f, &options->top_p) && options->top_p > 0.0f;
    else if (strcmp(name, "--min-p") == 0)
        return real(value, 0.0f, 1.0f, &options->min_p);
    else if (strcmp(name, "--seed") == 0)
        return whole(value, UINT64_MAX, &options->seed);
    else if (strcmp(name, "-n") == 0) {
        good = whole(value, SIZE_MAX / 2, &number);
        options->tokens = (size_t)number;
        return good;
    } else if (strcmp(name, "--top-k") == 0) {
        good = whole(value, INT32_MAX, &number);
        options->top_k = (size_t)number;
        return good;
    } else if (strcmp(name, "--threads") == 0) {
        good = whole(value, 256, &number) && number > 0;
        options->threads = (unsigned)number;
        return good;
    } else {
        return -1;
    }
    return 1;
}

bool cr_options_read(Options *options, int count, char **arguments, char *error) {
    *options = (Options){
        .prompt = "", .tokens = 100, .temperature = 0.8f, .top_p = 1.0f, .threads = 1};
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        bool *target = flag(options, name);
        if (target != NULL) {
            *target = true;
            continue;
        }
        const char *value = i + 1 < count ? arguments[i + 1] : "";
        switch (assign(options, name, value)) {
        case -1:
            return cr_fail(error, "%s: no such option; --help lists them", name);
        case 0:
            return cr_fail(error, "%s %s: the value does not fit; --help says more", name, value);
        default:
            if (i + 1 >= count)
                return cr_fail(error, "%s: give a value", name);
            i++;
        }
    }
    return true;
}
