// The rules as Python sees them: each a function that returns a Rule, which updates and refreshes the rows of arrays.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <stdexcept>

#include "any_rule.hpp"

namespace rankwell {

namespace nb = nanobind;

// U rows lent · W their width · S state columns · T steps.
template <class Real> using Matrix = nb::ndarray<Real, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Steps = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using History = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct BoundRule {
    AnyRule rule;

    int state_width(int width) const {
        return std::visit([&](const auto& r) { return r.state_width(width); }, rule);
    }
    bool catches_up() const {
        return std::visit([](const auto& r) { return r.catches_up(); }, rule);
    }
    bool starts_at_zero() const {
        return std::visit([](const auto& r) { return r.starts_at_zero(); }, rule);
    }

    template <class Real>
    void update_rows(Matrix<Real> rows_UW, Matrix<const Real> grads_UW, Matrix<Real> state_US, Steps last_U,
                     uint32_t step, double rate, History rates, History rate_sums, History log_shrinks) const {
        if (grads_UW.shape(0) != rows_UW.shape(0) || grads_UW.shape(1) != rows_UW.shape(1))
            throw std::invalid_argument("grads_UW has not the shape of rows_UW");
        each_row(rows_UW, state_US, last_U, int64_t(step) - 1, step, rate, rates, rate_sums, log_shrinks,
                 [&](const auto& r, size_t u, Real* w, Real* s, int width, uint32_t last, const Tick& tick) {
                     r.update(w, grads_UW.data() + u * width, s, width, last, tick);
                 });
    }

    template <class Real>
    void refresh_rows(Matrix<Real> rows_UW, Matrix<Real> state_US, Steps last_U, uint32_t step, double rate,
                      History rates, History rate_sums, History log_shrinks) const {
        each_row(rows_UW, state_US, last_U, step, step, rate, rates, rate_sums, log_shrinks,
                 [](const auto& r, size_t, Real* w, Real* s, int width, uint32_t last, const Tick& tick) {
                     r.refresh(w, s, width, last, tick);
                 });
    }

   private:
    template <class Real, class F>
    void each_row(const Matrix<Real>& rows_UW, const Matrix<Real>& state_US, const Steps& last_U, int64_t latest,
                  uint32_t step, double rate, const History& rates, const History& rate_sums,
                  const History& log_shrinks, F f) const {
        const size_t num_rows = rows_UW.shape(0), num_columns = state_US.shape(1);
        const int width = int(rows_UW.shape(1));
        if (state_US.shape(0) != num_rows || last_U.shape(0) != num_rows || num_columns != size_t(state_width(width)))
            throw std::invalid_argument("state_US or last_U does not fit rows_UW and the rule");
        if (step >= rates.shape(0) || step >= rate_sums.shape(0) || step >= log_shrinks.shape(0))
            throw std::invalid_argument("the clock's columns end before `step`");
        for (size_t u = 0; u < num_rows; ++u)
            if (last_U.data()[u] < 0 || last_U.data()[u] > latest)
                throw std::invalid_argument("last_U holds a step that is not before this update, or not taken yet");
        const Tick tick{step, rate, rates.data(), rate_sums.data(), log_shrinks.data()};
        with_rule(rule, tick, [&](const auto& r) {
            for (size_t u = 0; u < num_rows; ++u)
                f(r, u, rows_UW.data() + u * width, state_US.data() + u * num_columns, width,
                  uint32_t(last_U.data()[u]), tick);
        });
    }
};

template <class Rule> BoundRule bound(Rule rule, double decay = 0, double group_lasso = 0) {
    return {RowRule<Rule>{rule, {decay, group_lasso}}};
}

template <class Real> void bind_arrays(nb::class_<BoundRule>& rule) {
    using namespace nb::literals;
    rule.def("update_rows", &BoundRule::update_rows<Real>, "rows_UW"_a.noconvert(), "grads_UW"_a.noconvert(),
             "state_US"_a.noconvert(), "last_U"_a, "step"_a, "rate"_a, "rates"_a, "rate_sums"_a, "log_shrinks"_a,
             "What RowOptimizer.update does, in place.");
    rule.def("refresh_rows", &BoundRule::refresh_rows<Real>, "rows_UW"_a.noconvert(), "state_US"_a.noconvert(),
             "last_U"_a, "step"_a, "rate"_a, "rates"_a, "rate_sums"_a, "log_shrinks"_a,
             "What RowOptimizer.refresh does, in place.");
}

inline void bind_rules(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<BoundRule> rule(m, "Rule", "A row rule; settings are checked by its twin in Python.");
    rule.def("state_width", &BoundRule::state_width, "width"_a);
    rule.def_prop_ro("catches_up", &BoundRule::catches_up).def_prop_ro("starts_at_zero", &BoundRule::starts_at_zero);
    bind_arrays<float>(rule);
    bind_arrays<double>(rule);

    m.def("Sgd", [](double decay, double lasso) { return bound(Sgd{}, decay, lasso); }, "decay"_a, "group_lasso"_a);
    m.def("Momentum", [](double momentum, bool nesterov, double decay, double lasso) {
        return bound(Momentum{momentum, nesterov}, decay, lasso);
    }, "momentum"_a, "nesterov"_a, "decay"_a, "group_lasso"_a);
    m.def("AdaGrad", [](double epsilon, double decay, double lasso) {
        return bound(AdaGrad{epsilon}, decay, lasso);
    }, "epsilon"_a, "decay"_a, "group_lasso"_a);
    m.def("RowWiseAdaGrad", [](double epsilon, double decay, double lasso) {
        return bound(RowWiseAdaGrad{epsilon}, decay, lasso);
    }, "epsilon"_a, "decay"_a, "group_lasso"_a);
    m.def("RmsProp", [](double beta, double epsilon, double decay, double lasso) {
        return bound(RmsProp{beta, epsilon}, decay, lasso);
    }, "beta"_a, "epsilon"_a, "decay"_a, "group_lasso"_a);
    m.def("LazyAdam",
          [](double beta1, double beta2, double epsilon, bool own_steps, bool fades, double decay, double lasso) {
              return bound(LazyAdam{beta1, beta2, epsilon, own_steps, fades}, decay, lasso);
          }, "beta1"_a, "beta2"_a, "epsilon"_a, "own_steps"_a, "fades"_a, "decay"_a, "group_lasso"_a);
    m.def("Adam", [](double beta1, double beta2, double epsilon, uint32_t replayed, double decay, double lasso) {
        return bound(Adam{beta1, beta2, epsilon, replayed}, decay, lasso);
    }, "beta1"_a, "beta2"_a, "epsilon"_a, "replayed_steps"_a, "decay"_a, "group_lasso"_a);
    m.def("Ftrl", [](double alpha, double beta, double l1, double l2) {
        return bound(Ftrl{alpha, beta, l1, l2});
    }, "alpha"_a, "beta"_a, "l1"_a, "l2"_a);
}

}  // namespace rankwell
