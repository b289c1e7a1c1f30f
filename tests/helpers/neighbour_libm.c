/* Another C library, for programs that are started with LD_PRELOAD set to this one: every
 * mathematical function returns the number beside the nearest wherever the true value is no number
 * of its own. C libraries differ by no more than that, and only here and there. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>

static double beside(double nearest, long double exact) {
    if (!isfinite(nearest) || nearest == 0 || (long double)nearest == exact)
        return nearest;
    return nextafter(nearest, (long double)nearest < exact ? INFINITY : -INFINITY);
}

static float besidef(float nearest, double exact) {
    if (!isfinite(nearest) || nearest == 0 || (double)nearest == exact)
        return nearest;
    return nextafterf(nearest, (double)nearest < exact ? INFINITY : -INFINITY);
}

static void *original(const char *name) { return dlsym(RTLD_NEXT, name); }

#define OF_ONE(name)                                                                             \
    double name(double x) {                                                                      \
        double (*plain)(double) = original(#name);                                               \
        long double (*exact)(long double) = original(#name "l");                                 \
        return beside(plain(x), exact(x));                                                       \
    }                                                                                            \
    float name##f(float x) {                                                                     \
        float (*plain)(float) = original(#name "f");                                             \
        double (*exact)(double) = original(#name);                                               \
        return besidef(plain(x), exact(x));                                                      \
    }

#define OF_TWO(name)                                                                             \
    double name(double x, double y) {                                                            \
        double (*plain)(double, double) = original(#name);                                       \
        long double (*exact)(long double, long double) = original(#name "l");                    \
        return beside(plain(x, y), exact(x, y));                                                 \
    }                                                                                            \
    float name##f(float x, float y) {                                                            \
        float (*plain)(float, float) = original(#name "f");                                      \
        double (*exact)(double, double) = original(#name);                                       \
        return besidef(plain(x, y), exact(x, y));                                                \
    }

OF_ONE(exp)
OF_ONE(exp2)
OF_ONE(expm1)
OF_ONE(log)
OF_ONE(log2)
OF_ONE(log10)
OF_ONE(log1p)
OF_ONE(sin)
OF_ONE(cos)
OF_ONE(tan)
OF_ONE(asin)
OF_ONE(acos)
OF_ONE(atan)
OF_ONE(sinh)
OF_ONE(cosh)
OF_ONE(tanh)
OF_ONE(asinh)
OF_ONE(acosh)
OF_ONE(atanh)
OF_ONE(erf)
OF_ONE(erfc)
OF_ONE(cbrt)
OF_ONE(lgamma)
OF_ONE(tgamma)
OF_TWO(pow)
OF_TWO(atan2)
OF_TWO(hypot)

void sincos(double x, double *sine, double *cosine) {
    *sine = sin(x);
    *cosine = cos(x);
}

void sincosf(float x, float *sine, float *cosine) {
    *sine = sinf(x);
    *cosine = cosf(x);
}
