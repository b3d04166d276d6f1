//! What can be wrong with data, how bad it is, and what to do.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know: convoke deals with it.
    Note,
    /// Look at it.
    Warning,
    /// Results will be wrong or pictures are lost.
    Error,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $severity:ident $words:literal $remedy:literal;)*) => {
        /// What can be wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// How bad it is.
            pub fn severity(self) -> Severity {
                match self { $(Kind::$name => Severity::$severity,)* }
            }

            /// In words.
            pub fn words(self) -> &'static str {
                match self { $(Kind::$name => $words,)* }
            }

            /// What to do.
            pub fn remedy(self) -> &'static str {
                match self { $(Kind::$name => $remedy,)* }
            }
        }
    };
}

kinds! {
    /// The folder cannot be opened as a data set.
    Layout Error "the data cannot be opened" "see the message";
    /// A file of no bytes.
    Empty Error "empty file" "copy it again or delete it";
    /// No picture by its content.
    NotAPicture Error "no picture in spite of its name" "delete it";
    /// The file ends too early, or cannot be decoded.
    Broken Error "broken picture" "copy it again or delete it";
    /// A picture of a format that convoke does not read.
    Foreign Error "picture of a format that is not read" "save it as JPEG or PNG";
    /// The same picture lies in several splits.
    Leak Error "same picture in several splits: leakage" "delete it from all but one";
    /// The same picture has several classes.
    Conflict Error "same picture in several classes" "delete the wrong ones";
    /// The same picture has several sets of boxes.
    OtherBoxes Error "same picture with other boxes" "delete all but the right one";
    /// Content and name tell different formats.
    Misnamed Warning "content and name tell different formats" "rename it";
    /// Pictures beside the class folders.
    Loose Warning "picture outside of the class folders: left out" "move it into its class's folder";
    /// Nearly the same picture lies in several splits.
    NearLeak Warning "nearly the same picture in several splits" "keep all versions of a picture in one split";
    /// The same picture twice in a split.
    Duplicate Warning "same picture twice" "delete one";
    /// Nearly the same picture twice in a split.
    NearDuplicate Warning "nearly the same picture twice" "look at both; delete one if they are the same";
    /// A lone file of another format.
    Stranger Warning "lone file of another format" "look whether it belongs here";
    /// Four inks instead of three lights.
    Cmyk Warning "CMYK colours" "they become RGB without a profile; save it as RGB if colours matter";
    /// A colour profile that is not sRGB.
    OtherColours Warning "colour profile other than sRGB" "the profile is not applied; convert it to sRGB if colours matter";
    /// Grey among colour pictures.
    Grey Warning "grey among colour pictures" "colours may tell the classes apart where they should not";
    /// One colour all over.
    Blank Warning "one colour all over" "delete it if it shows nothing";
    /// Much smaller than the others.
    Small Warning "much smaller than the others" "look whether it is a thumbnail";
    /// Much larger than the others.
    Large Warning "much larger than the others" "look whether it is of the same kind";
    /// Very long and narrow.
    Narrow Warning "very long and narrow" "most of it is cut off or squeezed";
    /// Several frames.
    Animated Warning "several frames: the first is taken" "save the frame that is meant";
    /// One class has many more pictures than another.
    Imbalance Warning "unbalanced classes" "train with --balance where pictures have one class each, or collect more";
    /// A class has few pictures.
    TinyClass Warning "class of few pictures" "collect more, or judge by --folds";
    /// A class is missing in a split.
    MissingClass Warning "class missing in a split" "move some of its pictures there";
    /// Boxes are told of a picture that is not there.
    MissingPicture Warning "boxes of a picture that is not there" "bring the picture, or delete its boxes";
    /// Two classes are named nearly the same.
    SameName Warning "classes of nearly the same name" "join their folders if they are one";
    /// A box that cannot be.
    Box Warning "box that cannot be as it is told" "see the message";
    /// Turned by EXIF.
    Turned Note "turned by EXIF: convoke turns it, others may not" "save it upright";
    /// More than 8 bits a channel.
    Deep Note "more than 8 bits a channel: 8 are used" "nothing, unless fine levels matter";
    /// Transparent pixels.
    Transparent Note "transparent: laid over white" "nothing, if white is right";
    /// A file that is no picture.
    Stray Note "no picture by its name: left out" "nothing";
}
