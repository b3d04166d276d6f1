//! What verbs that train share about data: how signals become inputs, and inputs of either kind.

use anyhow::{Result, bail};
use convoke_data::{Dataset, Fit, Norm, Preprocess, SignalPreprocess, Source, statistics};
use convoke_engine::Shape;

/// How signals become inputs; pictures have no use for them.
#[derive(clap::Args, Clone, Copy)]
pub struct Signal {
    /// Signals: brings each channel of each series (z-normalisation), or each channel over the whole set, to mean
    /// 0 and deviation 1, or leaves numbers as they are; kept in the model file
    #[arg(long, value_enum, default_value = "set", value_name = "NORM")]
    norm: NormArg,
    /// Signals of unequal length: zeros behind the end, or stretched to the longest; kept in the model file
    #[arg(long, value_enum, default_value = "pad", value_name = "FIT")]
    fit: FitArg,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum NormArg {
    Series,
    Set,
    None,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum FitArg {
    Pad,
    Stretch,
}

impl Signal {
    /// As model files keep it.
    pub fn choices(self) -> SignalPreprocess {
        SignalPreprocess {
            norm: match self.norm {
                NormArg::Series => Norm::Series,
                NormArg::Set => Norm::Set,
                NormArg::None => Norm::None,
            },
            fit: match self.fit {
                FitArg::Pad => Fit::Pad,
                FitArg::Stretch => Fit::Stretch,
            },
        }
    }

    /// The preprocessing of a set for an input of that shape.
    pub fn preprocess(self, dataset: &Dataset, input: Shape) -> Result<Preprocess> {
        match &dataset.train.source {
            Source::Signals(signals) => {
                let pre = Preprocess::signals(signals, self.choices());
                if input.h != 1 || input.c != pre.channels {
                    bail!(
                        "the network takes {input}; these signals are 1x{}x{}",
                        pre.width,
                        pre.channels
                    );
                }
                Ok(Preprocess { width: input.w, ..pre })
            }
            _ => {
                let (mean, std) = statistics(&dataset.train, input.c);
                Ok(Preprocess { mean, std, ..Preprocess::plain(input.h, input.w, input.c) })
            }
        }
    }
}
