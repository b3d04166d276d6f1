//! Finding things in big pictures and looking inside networks.
//!
//! A picture's way: [`Slider`] runs a fully convolutional network over the whole picture in blocks, at
//! every scale → [`Finder`] (peaks, boxes, those of all scales merged) → [`Found`], which is data first;
//! [`draw`] makes pictures of it. [`Learner`] makes such a network from pictures with boxes: [`Regime`]
//! chooses how, from their sizes. [`judge`] compares finds with boxes by the numbers of [`metrics`], and
//! [`demo::run_demo`] shows all of it at work on a crowd drawn by program. [`look`] opens a network:
//! filters, maps, receptive fields, what made it decide; [`lens`] slides a filter by hand.

#![forbid(unsafe_code)]

mod album;
mod bands;
mod bounds;
mod canvas;
mod check_sheet;

pub mod demo;
mod detector;
pub mod diagram;
pub mod draw;
mod error;
mod find;
mod judge;
mod learn;
pub mod lens;
pub mod look;
pub mod metrics;
mod plot;
mod regime;
pub mod report;
pub mod searched;
mod sheet;
mod slide;
mod tiles;

pub use album::{Example, Pixels, Thing};
pub use bands::{ScaledRows, overview, surroundings};
pub use bounds::{Bounds, suppress};
pub use detector::{Detector, SmallNetwork, on_backbone, small_network};
pub use error::{Result, VisionError};
pub use find::{Candidate, FindOptions, Finder, Found, Heat};
pub use judge::{Judgement, judge};
pub use learn::{Beginning, LearnOptions, Learner, Moment, train_detector};
pub use plot::draw_progress;
pub use regime::Regime;

pub use canvas::upsample;
pub use check_sheet::check_sheet;
pub use sheet::{candidate_crop, candidate_sheet, filter_sheet};
pub use slide::{Bands, Grid, ScoreMap, SlideOptions, Slider};
