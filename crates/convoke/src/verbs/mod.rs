//! One file per verb: its flags, its help, its run.

pub mod bench;
pub mod compare;
pub mod data;
pub mod data_boxes;
pub mod demo;
pub mod export;
pub mod find;
pub mod find_events;
pub mod fine_tune;
pub mod forecast;
pub mod import;
pub mod lens;
pub mod look;
pub mod look_signals;
pub mod models;
pub mod plan;
pub mod predict;
pub mod quantize;
pub mod report;
pub mod series;
pub mod train;
pub mod tune;
pub mod val;
pub mod val_boxes;
