// The tables as Python sees them. Arrays come as addresses, which src/rankwell/tables/native_store.py has checked: ten
// columns would cost more to wrap than to look up.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "rules_module.hpp"
#include "transit.hpp"

namespace rankwell {

using Address = uintptr_t;
using ColumnTuple = std::tuple<int, Address, size_t, Address, size_t, Address>;
using ReturnedTuple = std::tuple<int, Address, size_t, Address, size_t>;
using TickTuple = std::tuple<uint32_t, double, Address, Address, Address>;
using ShapeTuple = std::tuple<int, uint64_t, int, int, bool, bool, uint32_t, uint64_t, uint64_t, double, std::string,
                              uint64_t, uint32_t, uint64_t>;

template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }

inline Tick tick_of(const TickTuple& t) {
    const auto& [step, rate, rates, sums, shrinks] = t;
    return {step, rate, at<const double>(rates), at<const double>(sums), at<const double>(shrinks)};
}

inline Transit transit_of(Address keys, Address last, Address sightings, Address states, Address rows) {
    return {at<int64_t>(keys), at<uint32_t>(last), at<uint32_t>(sightings), at<float>(states), at<char>(rows)};
}

inline std::vector<Column> columns_of(const std::vector<ColumnTuple>& tuples) {
    std::vector<Column> columns;
    for (const auto& [store, ids, n, to, stride, index] : tuples)
        columns.push_back({store, at<const int64_t>(ids), n, at<float>(to), stride, at<uint32_t>(index)});
    return columns;
}

inline void bind_tables(nb::module_& m) {
    using namespace nb::literals;
    using Released = nb::call_guard<nb::gil_scoped_release>;
    nb::register_exception_translator([](const std::exception_ptr& p, void*) {
        try {
            std::rethrow_exception(p);
        } catch (const StorageError& error) {
            PyErr_SetString(PyExc_OSError, error.what());
        }
    });
    nb::class_<Tables>(m, "Tables")
        .def("__init__", [](Tables* self, const std::vector<ShapeTuple>& tuples) {
            std::vector<Shape> shapes;
            for (const auto& t : tuples) {
                std::apply([&](int addressing, auto... rest) { shapes.push_back({Addressing(addressing), rest...}); }, t);
                if (shapes.back().width > Store::max_width) throw std::invalid_argument("rows are too wide");
            }
            new (self) Tables(shapes);
        })
        .def("lend", [](Tables& self, const std::vector<ColumnTuple>& columns, uint64_t key, uint64_t below,
                        const BoundRule& rule, const TickTuple& tick, int threads) {
            self.lend(columns_of(columns), Draw{key, below}, rule.rule, tick_of(tick), threads);
        }, Released())
        .def("read", [](Tables& self, const std::vector<ColumnTuple>& columns, const BoundRule& rule,
                        const TickTuple& tick, int threads) {
            self.read(columns_of(columns), rule.rule, tick_of(tick), threads);
        }, Released())
        .def("collect", [](Tables& self, const std::vector<ReturnedTuple>& tuples, int threads) {
            std::vector<Returned> columns;
            for (const auto& [store, index, n, grads, stride] : tuples)
                columns.push_back({store, at<const uint32_t>(index), n, at<const float>(grads), stride});
            return self.collect(columns, threads);
        }, Released())
        .def("apply", [](Tables& self, const BoundRule& rule, const TickTuple& tick, double scale, int threads) {
            self.apply(rule.rule, tick_of(tick), scale, threads);
        }, Released())
        .def("abandon", &Tables::abandon)
        .def("scan", [](Tables& self, int t, bool only_changed, bool takes) {
            return Scan(self.store(t), only_changed, takes);
        }, "t"_a, "only_changed"_a, "takes"_a, nb::keep_alive<0, 1>())
        .def("insert", [](Tables& self, int t, size_t n, Address keys, Address last, Address sightings, Address states,
                          Address rows, bool changes) {
            transit_of(keys, last, sightings, states, rows).in(self.store(t), n, changes);
        }, Released())
        .def("remove", [](Tables& self, int t, size_t n, Address keys) {
            self.store(t).remove({at<const int64_t>(keys), n});
        }, Released())
        .def("track_removed", [](Tables& self, int t, bool on) { self.store(t).track_removed(on); })
        .def("take_removed", [](Tables& self, int t) {  // int64 as bytes: there may be many millions
            const std::vector<int64_t> ids = self.store(t).take_removed();
            return nb::bytes(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int64_t));
        })
        .def("num_rows", [](Tables& self, int t) { return self.store(t).num_rows(); })
        .def("num_seen", [](Tables& self, int t) { return self.store(t).num_seen(); })
        .def("num_waiting", [](Tables& self, int t) { return self.store(t).num_waiting(); })
        .def("num_bytes", [](Tables& self, int t) { return self.store(t).num_bytes(); })
        .def("num_resident", [](Tables& self, int t) { return self.store(t).num_resident(); })
        .def("num_evicted", [](Tables& self, int t, bool by_age) { return self.store(t).num_evicted(by_age); });
    nb::class_<Scan>(m, "Scan")
        .def("next", [](Scan& self, size_t room, Address keys, Address last, Address sightings, Address states,
                        Address rows, const BoundRule& rule, const TickTuple& tuple, bool freshens) {
            const Transit to = transit_of(keys, last, sightings, states, rows);
            const Tick tick = tick_of(tuple);
            return with_rule(rule.rule, tick, [&](const auto& r) { return self.next(to, room, r, tick, freshens); });
        }, Released());
}

}  // namespace rankwell
