// The extension's entry: asks the processor before any code that was compiled for a newer one runs.
#include <Python.h>

extern "C" PyObject* rankwell_init_native(); // the entry that NB_MODULE defines; CMakeLists.txt gives it this name

extern "C" [[gnu::visibility("default")]] PyObject* PyInit__native() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) {
        PyErr_SetString(PyExc_ImportError, "this processor has no AVX2, FMA or BMI2 (x86-64-v3)");
        return nullptr;
    }
#endif
    return rankwell_init_native();
}
