// Rules by name, and the error that a broken one throws.
#include <cstdarg>
#include <cstdio>

#include "core.h"

namespace emulator {

namespace {

struct Text {
  const char* id;
  const char* sentence;
};
constexpr Text kRules[] = {
#define MOGE_RULE(name, id, text) {id, text},
    MOGE_EMULATOR_RULES(MOGE_RULE)
#undef MOGE_RULE
};

}  // namespace

const char* Error::rule_id() const { return kRules[static_cast<int>(rule_)].id; }

std::vector<std::pair<std::string, std::string>> Rules() {
  std::vector<std::pair<std::string, std::string>> rules;
  for (const Text& rule : kRules) rules.emplace_back(rule.id, rule.sentence);
  return rules;
}

void Fail(Rule rule, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const Core& core = CurrentCore();
  throw Error(rule, std::string(Name(core.op)) + ": rule " + kRules[static_cast<int>(rule)].id +
                        ": " + text + " (" + core.Who() + " of " + core.machine.options.name + ")");
}

void CheckRange(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  Fail(Rule::kParamRange, "%s is %lld to %lld, got %lld", name, static_cast<long long>(least),
       static_cast<long long>(most), static_cast<long long>(value));
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
