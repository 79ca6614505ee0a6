// The tables as Python sees them. Arrays come as addresses, which src/rankwell/tables/native_store.py has checked: ten
// columns would cost more to wrap than to look up.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "lending.hpp"
#include "rules_module.hpp"

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

inline std::vector<Column> columns_of(const std::vector<ColumnTuple>& tuples) {
    std::vector<Column> columns;
    for (const auto& [store, ids, n, to, stride, index] : tuples)
        columns.push_back({store, at<const int64_t>(ids), n, at<float>(to), stride, at<uint32_t>(index)});
    return columns;
}

// Rows on their way to a file or from one, n of them.
struct Transit {
    int64_t* keys;
    uint32_t *last, *sightings;
    float* states;
    char* rows;

    // A row as it is after tick.step where `freshens`, else as it stands.
    template <class Rule>
    void out(const Store& store, size_t i, int64_t key, uint32_t slot, const Rule& rule, const Tick& tick,
             bool freshens) const {
        const size_t state = size_t(store.shape().state_width), row = row_bytes(store);
        float* const its_state = states + i * state;
        char* const its_row = rows + i * row;
        keys[i] = key;
        if (slot & pending) {
            last[i] = 0;
            sightings[i] = slot & ~pending;
            std::fill_n(its_state, state, 0.0f);
            std::memset(its_row, 0, row);
            return;
        }
        const Counts& counts = store.counts(slot);
        last[i] = freshens ? std::max(counts.last, tick.step) : counts.last;
        sightings[i] = counts.sightings;
        if (freshens && counts.last < tick.step) {
            float wide[Store::max_width];
            store.fresh_row(slot, rule, tick, wide, its_state);
            if (store.shape().is_bfloat16)
                to_bfloat16(wide, reinterpret_cast<bfloat16*>(its_row), store.shape().width, store.rounding(key, tick.step));
            else std::memcpy(its_row, wide, row);
        } else {
            std::memcpy(its_state, store.state(slot), state * 4);
            std::memcpy(its_row, store.row(slot), row);
        }
    }
    void in(Store& store, size_t i) const {
        const uint32_t slot = store.slot_for(keys[i], sightings[i]);
        if (slot & pending) return;
        const size_t state = size_t(store.shape().state_width), row = row_bytes(store);
        if (store.in_file()) {
            store.keep_bound();
            store.about_to_touch(slot);
        }
        if (!store.grows() && keys[i] >= 0 && store.counts(slot).sightings == 0 && sightings[i] > 0)
            ++store.account(0).num_seen;
        store.counts(slot) = {0, last[i], sightings[i]};
        std::memcpy(store.state(slot), states + i * state, state * 4);
        std::memcpy(store.row(slot), rows + i * row, row);
    }
    static size_t row_bytes(const Store& store) {
        return size_t(store.shape().width) * (store.shape().is_bfloat16 ? 2 : 4);
    }
};

// Writes out rows from `cursor` on, at most `room` of them but never half a shard; returns (next cursor, rows written).
// The cursor is 0 at the start and 2^63 at the end. Rows are brought up to date first where a rule says how.
inline std::tuple<uint64_t, size_t> scan(Store& store, uint64_t cursor, size_t room, uint32_t since, const Transit& to,
                                         const AnyRule& rule, const Tick& tick, bool freshens) {
    constexpr uint64_t end = uint64_t(1) << 63;
    size_t n = 0;
    with_rule(rule, tick, [&](const auto& r) {
        const bool owes = freshens && r.catches_up();
        const auto visit = [&](int64_t key, uint32_t slot) {
            if (!(slot & pending)) {
                if (store.in_file()) store.about_to_touch(slot);
                if (since > 0 && (owes ? tick.step : store.counts(slot).last) <= since) return;
            }
            to.out(store, n++, key, slot, r, tick, owes);
        };
        if (cursor == 0) {
            visit(default_key, default_slot);
            visit(missing_id, missing_slot);
            cursor = 1;
        }
        if (store.grows()) {
            for (; cursor <= Index::num_shards; ++cursor) {
                const int s = int(cursor - 1);
                if (n > 0 && n + store.shard_count(s) > room) return;
                store.each_in_shard(s, [&](int64_t, uint32_t slot) {
                    if (!(slot & pending)) __builtin_prefetch(&store.counts(slot));
                });
                store.each_in_shard(s, visit);
            }
        } else {
            for (; cursor <= store.shape().size; ++cursor) {
                if (n == room) return;
                const uint32_t slot = uint32_t(cursor - 1) + num_own_rows;
                if (store.counts(slot).sightings > 0) visit(int64_t(cursor - 1), slot);
            }
        }
        cursor = end;
    });
    if (store.in_file()) store.keep_bound();
    return {cursor, n};
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
        .def("scan", [](Tables& self, int t, uint64_t cursor, size_t room, uint32_t since, Address keys, Address last,
                        Address sightings, Address states, Address rows, const BoundRule& rule, const TickTuple& tick,
                        bool freshens) {
            const Transit to{at<int64_t>(keys), at<uint32_t>(last), at<uint32_t>(sightings), at<float>(states),
                             at<char>(rows)};
            return scan(self.store(t), cursor, room, since, to, rule.rule, tick_of(tick), freshens);
        }, Released())
        .def("insert", [](Tables& self, int t, size_t n, Address keys, Address last, Address sightings, Address states,
                          Address rows) {
            const Transit from{at<int64_t>(keys), at<uint32_t>(last), at<uint32_t>(sightings), at<float>(states),
                               at<char>(rows)};
            for (size_t i = 0; i < n; ++i) from.in(self.store(t), i);
        }, Released())
        .def("remove", [](Tables& self, int t, const std::vector<int64_t>& keys) {
            self.store(t).remove(keys);
        })
        .def("largest_shard", [](Tables& self, int t) {
            uint32_t most = 0;
            if (self.store(t).grows())
                for (int s = 0; s < Index::num_shards; ++s) most = std::max(most, self.store(t).shard_count(s));
            return most;
        })
        .def("track_removed", [](Tables& self, int t, bool on) { self.store(t).track_removed(on); })
        .def("take_removed", [](Tables& self, int t) { return self.store(t).take_removed(); })
        .def("num_rows", [](Tables& self, int t) { return self.store(t).num_rows(); })
        .def("num_seen", [](Tables& self, int t) { return self.store(t).num_seen(); })
        .def("num_bytes", [](Tables& self, int t) { return self.store(t).num_bytes(); })
        .def("num_resident", [](Tables& self, int t) { return self.store(t).num_resident(); })
        .def("num_evicted", [](Tables& self, int t, bool by_age) { return self.store(t).num_evicted(by_age); });
}

}  // namespace rankwell
