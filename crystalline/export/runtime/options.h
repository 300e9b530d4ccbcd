/* What the command line asks for. */
#ifndef CRYSTAL_OPTIONS_H
#define CRYSTAL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *model;      /* NULL in a program that holds its model */
    const char *prompt;
    const char *prompt_file;    /* NULL: none */
    size_t tokens;
    float temperature;
    size_t top_k;
    float top_p;
    float min_p;
    uint64_t seed;
    unsigned threads;
    const char *kernels;    /* NULL: the best */
    bool bench, logits, ids, tokenize, info, published, no_stop, help;
} Options;

extern const char cr_usage[];

/* False, and one line, where an option is unknown, lacks its value or is out of range. */
bool cr_options_read(Options *options, int count, char **arguments, char *error);

#endif
