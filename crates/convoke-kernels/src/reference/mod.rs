//! Every kernel as its definition reads: plain loops, sums in f64. Slow on purpose; the fast kernels
//! are tested against these.

pub mod conv;
pub mod layer_norm;
pub mod norm;
pub mod pointwise;
pub mod pool2d;
