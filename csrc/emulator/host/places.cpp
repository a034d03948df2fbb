// Where an error was thrown: addresses of the program to lines of its sources, by addr2line.
#include "places.h"

#include <dlfcn.h>
#include <elf.h>

#include <cstdint>
#include <cstdio>

namespace emulator::host {

namespace {

std::string Line(std::FILE* pipe) {
  std::string line;
  for (int c = std::fgetc(pipe); c != EOF && c != '\n'; c = std::fgetc(pipe)) {
    line += static_cast<char>(c);
  }
  return line;
}

// The folder above the one of a file of this folder.
std::string Above(const std::string& file) { return file.substr(0, file.rfind("/host/") + 1); }

// Files of the emulator itself, its sources and its headers, and of the system are not the
// program's.
bool IsOwn(const std::string& file, const std::string& header) {
  if (file.empty() || file[0] == '?' || file.rfind("/usr/", 0) == 0) return false;
  if (file.find("/libstdc++-v3/") != std::string::npos) return false;
  for (const std::string& folder : {Above(__FILE__), Above(header)}) {
    if (!folder.empty() && file.rfind(folder, 0) == 0) return false;
  }
  return true;
}

// "sources/add.asc:41" without the notes that addr2line may add.
std::string Place(const std::string& line) { return line.substr(0, line.find(' ')); }

// "Kernel<float>::Process" without its arguments and its result.
std::string Short(const std::string& function) {
  int depth = 0;  // of template arguments, which may have spaces and parentheses
  size_t start = 0;
  for (size_t i = 0; i < function.size(); ++i) {
    depth += (function[i] == '<') - (function[i] == '>');
    if (depth != 0) continue;
    if (function[i] == ' ') start = i + 1;
    if (function[i] == '(') return function.substr(start, i - start);
  }
  return function;
}

}  // namespace

std::vector<std::string> Places(const std::vector<void*>& trace, const std::string& header) {
  std::vector<std::string> places;
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&Places), &self) == 0) return places;
  const auto base = reinterpret_cast<uintptr_t>(self.dli_fbase);
  const bool moved = reinterpret_cast<const Elf64_Ehdr*>(base)->e_type == ET_DYN;
  std::string command = "addr2line -f -C -i -e '" + std::string(self.dli_fname) + "'";
  for (void* const address : trace) {
    Dl_info info;
    if (dladdr(address, &info) == 0 || info.dli_fbase != self.dli_fbase) continue;
    char text[32];
    // one back: a return address may be on the line after the call
    std::snprintf(text, sizeof text, " 0x%zx",
                  reinterpret_cast<uintptr_t>(address) - 1 - (moved ? base : 0));
    command += text;
  }
  std::FILE* const pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return places;
  while (std::feof(pipe) == 0) {
    const std::string function = Line(pipe);
    const std::string file = Line(pipe);
    if (!IsOwn(file, header)) continue;
    const bool launch =  // the lambda that a launch has become
        function.find("{lambda(") != std::string::npos &&
        function.find("auto:") != std::string::npos;
    const std::string place = Place(file) + (launch ? ", the launch" : " in " + Short(function));
    if (places.empty() || places.back() != place) places.push_back(place);
  }
  pclose(pipe);
  return places;
}

}  // namespace emulator::host
