#include "cpu/backend.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "cpu/parallel.h"

namespace rnnkern::cpu {
namespace {

const Backend* const kBackends[] = {
#if RNNKERN_X86
    &kAvx512, &kAvx2,
#endif
    &kScalar};

std::string names(const std::vector<const Backend*>& backends) {
  std::string text;
  for (const Backend* backend : backends) text += (text.empty() ? "" : ", ") + std::string(backend->name);
  return text;
}

}  // namespace

std::vector<const Backend*> supported_backends() {
  std::vector<const Backend*> result;
  for (const Backend* backend : kBackends) {
    if (backend->supported()) result.push_back(backend);
  }
  return result;
}

const Backend& active_backend() {
  static const std::vector<const Backend*> supported = supported_backends();
  const char* forced = std::getenv("RNNKERN_ISA");
  if (forced == nullptr || *forced == '\0') return *supported.front();
  for (const Backend* backend : supported) {
    if (forced == std::string(backend->name)) return *backend;
  }
  throw std::runtime_error("RNNKERN_ISA: expected one of " + names(supported) + " on this CPU, got '" + forced + "'");
}

int choose_threads(double flops) {
  constexpr double kFlopsPerThread = 2e5;  // below this a fork and its barriers cost more than they save
  const double wanted = std::min(flops / kFlopsPerThread, 1e6);
  return std::clamp(static_cast<int>(wanted), 1, available_threads());
}

}  // namespace rnnkern::cpu
