/* One clear line about what went wrong. */
#ifndef CRYSTAL_FAILURE_H
#define CRYSTAL_FAILURE_H

#include <stdbool.h>

#if defined(__GNUC__)
#define CR_FORMAT __attribute__((format(printf, 2, 3)))
#else
#define CR_FORMAT
#endif

/* Writes the line, in which control characters become '?'; returns false. */
bool cr_fail(char *error, const char *format, ...) CR_FORMAT;

#endif
