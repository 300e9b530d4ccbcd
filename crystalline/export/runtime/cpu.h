/* Which instruction sets the processor has and the system lets programs use. */
#ifndef CRYSTAL_CPU_H
#define CRYSTAL_CPU_H

#include <stdbool.h>

bool cr_cpu_has_crc32c(void);   /* SSE 4.2 */

bool cr_cpu_has_avx2(void);     /* with FMA and F16C */

bool cr_cpu_has_avx512(void);   /* F, BW, DQ and VL, with FMA and F16C */

#endif
