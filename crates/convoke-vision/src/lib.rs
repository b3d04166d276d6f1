//! Finding things in big pictures and looking inside networks.
//!
//! A picture's way: [`Slider`] runs a fully convolutional network over the whole picture in blocks →
//! [`ScoreMap`] → [`Finder`] (peaks, boxes, overlaps removed) → [`Found`], which is data first;
//! [`draw`] makes pictures of it. [`train_detector`] makes such a network from pictures with boxes,
//! and [`demo::run_demo`] shows all of it at work on a crowd drawn by program. [`look`] opens a network: filters,
//! maps, receptive fields, what made it decide; [`lens`] slides a filter by hand.

mod bounds;
mod canvas;
mod check_sheet;

pub mod demo;
pub mod diagram;
pub mod draw;
mod error;
mod find;
mod learn;
pub mod lens;
pub mod look;
pub mod report;
mod sheet;
mod slide;

pub use bounds::{Bounds, suppress};
pub use error::{Result, VisionError};
pub use find::{Candidate, Detector, FindOptions, Finder, Found};
pub use learn::{Example, LearnOptions, Learned, Moment, detector_network, train_detector};

pub use canvas::upsample;
pub use check_sheet::check_sheet;
pub use sheet::{candidate_sheet, filter_sheet};
pub use slide::{ScoreMap, SlideOptions, Slider};
