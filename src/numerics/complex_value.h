// complex_value.h: a complex number of any scalar type, as two numbers.
//
// std::complex is for float, double and long double only.
#pragma once

namespace betatron::numerics {

template <class T>
struct complex_value {
  T re, im;
};

}  // namespace betatron::numerics
