#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

#include "crystal.h"

bool cr_fail(char *error, const char *format, ...) {
    if (error == NULL)
        return false;
    va_list values;
    va_start(values, format);
    vsnprintf(error, CRYSTAL_ERROR_BYTES, format, values);
    va_end(values);
    for (char *at = error; *at != '\0'; at++)  /* names come from files that may be hostile */
        if ((unsigned char)*at < 0x20 || (unsigned char)*at == 0x7f)
            *at = '?';
    return false;
}
