// Rules by name, their levels, and the error or warning that a broken one gives.
#include <execinfo.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "core.h"

namespace emulator {

namespace {

struct Entry {
  const char* id;
  Level level;
  const char* sentence;
};
constexpr Entry kRules[] = {
#define MOGE_RULE(name, id, level, text) {id, Level::level, text},
    MOGE_EMULATOR_RULES(MOGE_RULE)
#undef MOGE_RULE
};

constexpr const char* kLevels[] = {"off", "warning", "error", "fixed"};

const Entry& EntryOf(Rule rule) { return kRules[static_cast<int>(rule)]; }

// What a message is about: the running instruction, the high-level call it is part of, its core.
std::string Told(Rule rule, const std::string& text) {
  const Core& core = CurrentCore();
  std::string who = Name(core.op);
  if (core.call != nullptr) {
    who = core.op == Op::kHighLevelCall ? core.call : who + " in " + core.call;
  }
  return who + ": rule " + EntryOf(rule).id + ": " + text + " (" + core.Who() + " of " +
         core.machine.options.name + ")";
}

Level LevelOf(const std::string& word, const std::string& setting) {
  for (const Level level : {Level::kOff, Level::kWarning, Level::kError}) {
    if (word == kLevels[static_cast<int>(level)]) return level;
  }
  throw std::invalid_argument("levels of rules are error, warning and off, got '" + setting + "'");
}

bool Matches(const std::string& pattern, const std::string& id) {
  if (pattern.empty() || pattern.back() != '*') return pattern == id;
  return id.compare(0, pattern.size() - 1, pattern, 0, pattern.size() - 1) == 0;
}

// One setting, `id=level`; an id that ends with * stands for all that start like it, and `warning`
// for every rule that is one.
void SetLevel(Levels& levels, const std::string& setting) {
  const size_t equals = setting.find('=');
  if (equals == std::string::npos) {
    throw std::invalid_argument("a level of a rule is written id=level, got '" + setting + "'");
  }
  const std::string pattern = setting.substr(0, equals);
  const Level level = LevelOf(setting.substr(equals + 1), setting);
  bool found = false;
  for (int i = 0; i < kRuleCount; ++i) {
    const bool chosen =
        pattern == "warning" ? levels[i] == Level::kWarning : Matches(pattern, kRules[i].id);
    if (!chosen) continue;
    found = true;
    if (levels[i] != Level::kFixed) {
      levels[i] = level;
    } else if (pattern == kRules[i].id && level != Level::kError) {
      throw std::invalid_argument("rule " + pattern +
                                  " is always an error: the emulator could not go on after it");
    }
  }
  if (!found && pattern != "warning") {
    throw std::invalid_argument("no rule is called '" + pattern +
                                "'; docs/backends/emulator.md lists them");
  }
}

void SetLevels(Levels& levels, const std::string& settings) {
  for (size_t at = 0; at < settings.size();) {
    const size_t end = std::min(settings.find_first_of(", ", at), settings.size());
    if (end > at) SetLevel(levels, settings.substr(at, end - at));
    at = end + 1;
  }
}

}  // namespace

Error::Error(Rule rule, const std::string& message)
    : std::runtime_error(message), rule_(rule), trace_(64) {
  trace_.resize(backtrace(trace_.data(), static_cast<int>(trace_.size())));
}

const char* Error::rule_id() const { return EntryOf(rule_).id; }

std::vector<RuleText> Rules() {
  std::vector<RuleText> rules;
  for (const Entry& rule : kRules)
    rules.push_back({rule.id, kLevels[static_cast<int>(rule.level)], rule.sentence});
  return rules;
}

Levels LevelsFor(const Options& options) {
  Levels levels;
  for (int i = 0; i < kRuleCount; ++i) levels[i] = kRules[i].level;
  if (const char* variable = std::getenv("MOGE_EMULATOR_RULES")) SetLevels(levels, variable);
  SetLevels(levels, options.rules);
  return levels;
}

bool Machine::CountAgain(Rule rule, Op op) {
  for (Warning& warning : warnings) {
    if (warning.rule != EntryOf(rule).id || warning.op != Name(op)) continue;
    ++warning.count;
    return true;
  }
  return false;
}

void Machine::Report(Rule rule, Op op, const std::string& message) {
  if (levels[static_cast<int>(rule)] >= Level::kError) throw Error(rule, message);
  if (CountAgain(rule, op)) return;
  warnings.push_back({EntryOf(rule).id, Name(op), message, 1});
  if (options.warn != nullptr) {
    options.warn(Error(rule, message));
  } else {
    std::fprintf(stderr, "warning: %s\n", message.c_str());
  }
}

void Fail(Rule rule, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string text = Formatted(format, arguments);
  va_end(arguments);
  throw Error(rule, Told(rule, text));
}

void Report(Rule rule, const char* format, ...) {
  Machine& machine = CurrentCore().machine;
  if (machine.levels[static_cast<int>(rule)] == Level::kOff) return;
  // an instruction may warn of each element: only the first one is put into words
  if (machine.CountAgain(rule, CurrentCore().op)) return;
  va_list arguments;
  va_start(arguments, format);
  const std::string text = Formatted(format, arguments);
  va_end(arguments);
  machine.Report(rule, CurrentCore().op, Told(rule, text));
}

void CheckRange(const Limit& limit, int64_t value) {
  if (limit.Allows(value)) return;
  Report(Rule::kParamRange, "%s is %lld to %lld, got %lld", limit.name,
         static_cast<long long>(limit.least), static_cast<long long>(limit.most),
         static_cast<long long>(value));
}

void CheckRepeat(const Limit& limit, int64_t repeat) {
  if (limit.Allows(repeat)) return;
  Fail(Rule::kRepeatRange, "repeat is %lld to %lld, got %lld", static_cast<long long>(limit.least),
       static_cast<long long>(limit.most), static_cast<long long>(repeat));
}

void NoteTruncation(long long value, unsigned bits) {
  std::optional<Truncation>& truncated = CurrentCore().truncated;
  if (!truncated) truncated = Truncation{value, bits};
}

void CheckFields(Core& core) {
  if (!core.truncated) return;
  const Truncation truncated = *core.truncated;
  core.truncated.reset();
  Report(Rule::kParamRange, "%lld does not fit the %u bits of a parameter", truncated.value,
         truncated.bits);
}

}  // namespace emulator
