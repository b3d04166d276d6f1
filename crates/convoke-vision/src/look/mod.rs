//! Looking inside a network: filters, feature maps, receptive fields, what made it decide. Each part gives
//! data first (serde) and a picture of it.

mod arithmetic;
mod explain;
mod field;
mod inside;
mod maps;
mod panel;
mod patches;
mod signal;

pub use arithmetic::{Arithmetic, Term};
pub use explain::{Attribution, Method, Occluder, Sanity, gauss_legendre};
pub use field::{Effective, FieldReport, field_picture};
pub use inside::{Inside, Target, Weights};
pub use maps::{LayerMaps, map_sheet, overview};
pub use panel::{Explained, explained_picture};
pub use patches::{FilterPatches, Patch, patch_sheet};
pub use signal::{Shaded, shaded_curves};
