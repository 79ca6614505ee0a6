// The extension rankwell.tables._native.
#include <nanobind/nanobind.h>

#if __has_include("rules_module.hpp")
#include "rules_module.hpp"
#endif

NB_MODULE(_native, m) {
    m.attr("abi") = 1;
#if __has_include("rules_module.hpp")
    rankwell::bind_rules(m);
#endif
}
