//! Identifiers: one newtype over a UUID per thing, so that a task id never stands where a job id is wanted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a new time-ordered identifier (UUID version 7).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id!(
    /// Names a job, and the transcript that comes of it.
    JobId
);
id!(
    /// Names one task of a job.
    TaskId
);
id!(
    /// Names one run of a worker process; a restarted worker gets a new one.
    WorkerId
);
id!(
    /// Names a tenant.
    TenantId
);
id!(
    /// Names an API key; never the key itself.
    ApiKeyId
);

impl TenantId {
    /// The tenant that exists on every installation.
    pub const DEFAULT: Self = Self(Uuid::nil());
}
