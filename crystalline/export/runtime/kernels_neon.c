#include "kernels.h"

#if defined(CR_HAS_NEON)
#include <math.h>
#include <string.h>

#include "simd_neon.h"

#include "kernels_body.h"
#else
typedef int cr_no_neon;     /* a file must hold something */
#endif
