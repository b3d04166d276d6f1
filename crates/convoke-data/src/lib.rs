//! Pictures and labels: readers, checks, augmentation, loader, scene generator.
