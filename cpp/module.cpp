// The extension rankwell.tables._native.
#include <nanobind/nanobind.h>

#include "rules_module.hpp"
#include "tables_module.hpp"

NB_MODULE(_native, m) {
    nanobind::set_leak_warnings(false);  // a process that ends while tables are alive has leaked nothing
    m.attr("abi") = 2;
    rankwell::bind_rules(m);
    rankwell::bind_tables(m);
}
