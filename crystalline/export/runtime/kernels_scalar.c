#include "kernels.h"

#include <math.h>
#include <string.h>

#include "simd_scalar.h"

#include "kernels_body.h"
