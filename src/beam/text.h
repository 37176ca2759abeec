// text.h: how the error messages of the beam room write numbers.
#pragma once

#include <charconv>
#include <string>
#include <system_error>

namespace betatron::beam {

/// The shortest decimal form that reads back as the same double: "0.1", "-3", "1e+20", "nan".
inline std::string number_text(double value) {
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
  return result.ec == std::errc() ? std::string(buffer, result.ptr) : std::string("?");
}

}  // namespace betatron::beam
