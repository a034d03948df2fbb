// Rules by name, and the error that a broken one throws.
#include <cstdarg>
#include <cstdio>

#include "core.h"

namespace emulator {

namespace {

constexpr const char* kRuleIds[] = {
#define MOGE_RULE(name, id, text) id,
    MOGE_EMULATOR_RULES(MOGE_RULE)
#undef MOGE_RULE
};

constexpr const char* kRuleTexts[] = {
#define MOGE_RULE(name, id, text) text,
    MOGE_EMULATOR_RULES(MOGE_RULE)
#undef MOGE_RULE
};

}  // namespace

const char* Error::rule_id() const { return kRuleIds[static_cast<int>(rule_)]; }

std::vector<std::pair<std::string, std::string>> Rules() {
  std::vector<std::pair<std::string, std::string>> rules;
  for (size_t i = 0; i < std::size(kRuleIds); ++i) rules.emplace_back(kRuleIds[i], kRuleTexts[i]);
  return rules;
}

void Fail(Rule rule, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const Core& core = CurrentCore();
  throw Error(rule, std::string(Name(core.op)) + ": rule " + kRuleIds[static_cast<int>(rule)] +
                        ": " + text + " (" + core.Who() + " of " + core.machine.options.name + ")");
}

void NoteTruncation(long long value, unsigned bits) {
  std::optional<Truncation>& truncated = CurrentCore().truncated;
  if (!truncated) truncated = Truncation{value, bits};
}

void CheckFields(const Core& core) {
  if (!core.truncated) return;
  Fail(Rule::kParamRange, "%lld does not fit the %u bits of a parameter", core.truncated->value,
       core.truncated->bits);
}

}  // namespace emulator
