// One rule out of all of them, told apart once a step and not once a row.
#pragma once

#include <utility>
#include <variant>

#include "rules.hpp"

namespace rankwell {

using AnyRule = std::variant<RowRule<Sgd>, RowRule<Momentum>, RowRule<AdaGrad>, RowRule<RowWiseAdaGrad>,
                             RowRule<RmsProp>, RowRule<LazyAdam>, RowRule<Adam>, RowRule<Ftrl>>;

// f(rule) with the rule's own type, begun for this step: f's loop over rows is compiled once a rule.
template <class F> decltype(auto) with_rule(const AnyRule& any, const Tick& tick, F&& f) {
    return std::visit(
        [&](auto rule) -> decltype(auto) {
            rule.begin(tick);
            return std::forward<F>(f)(std::as_const(rule));
        },
        any);
}

}  // namespace rankwell
