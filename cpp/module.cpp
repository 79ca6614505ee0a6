// The extension rankwell.tables._native.
#include <nanobind/nanobind.h>

#include "rules_module.hpp"
#include "tables_module.hpp"

NB_MODULE(_native, m) {
    m.attr("abi") = 2;
    rankwell::bind_rules(m);
    rankwell::bind_tables(m);
}
