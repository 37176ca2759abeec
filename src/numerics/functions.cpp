// functions.cpp: the scalar functions behind rare lanes, compiled once for the baseline instruction set.
#include "numerics/functions.h"

#include "numerics/arcsine.h"
#include "numerics/entire.h"

namespace betatron::numerics::detail {

double sin_of_lane(double a) { return std::sin(a); }
double cos_of_lane(double a) { return std::cos(a); }
double atan_of_lane(double a) { return std::atan(a); }
double atanh_of_lane(double a) { return std::atanh(a); }

complex_value<double> arcsine_ratio_of_lane(double x, double y) {
  return arcsine_ratio_anywhere(x, y);
}

void stumpff_of_lane(double z, double* c, int count) { stumpff_anywhere(z, c, count); }

}  // namespace betatron::numerics::detail
