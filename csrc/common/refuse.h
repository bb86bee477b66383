// The error for an invalid argument.
#pragma once

#include <stdexcept>
#include <string>

namespace tokentiming {

// Throws std::invalid_argument. The message begins with the name of the function called.
[[noreturn]] inline void refuse(const char* function, const std::string& message) {
  throw std::invalid_argument(std::string(function) + ": " + message);
}

}  // namespace tokentiming
