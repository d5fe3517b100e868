//! What a key's scopes allow.

/// A scope of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyScope {
    /// `jobs:read`
    JobsRead,
    /// `jobs:write`
    JobsWrite,
    /// `realtime`
    Realtime,
    /// `webhooks`
    Webhooks,
    /// `admin`: everything.
    Admin,
}

/// Something a caller may or may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `job:create`
    JobCreate,
    /// `job:read`: counts over jobs.
    JobRead,
    /// `job:read:own`
    JobReadOwn,
    /// `job:update:own`
    JobUpdateOwn,
    /// `job:cancel:own`
    JobCancelOwn,
    /// `job:delete:own`
    JobDeleteOwn,
    /// `model:read`
    ModelRead,
    /// `model:write`
    ModelWrite,
    /// `model:pull`
    ModelPull,
    /// `model:delete`
    ModelDelete,
    /// `model:sync`
    ModelSync,
    /// `session:read`
    SessionRead,
    /// `api_key:create`
    ApiKeyCreate,
    /// `api_key:list`
    ApiKeyList,
    /// `api_key:revoke`
    ApiKeyRevoke,
}

impl KeyScope {
    /// Every scope, in the order they are listed to users.
    pub const ALL: [Self; 5] = [
        Self::JobsRead,
        Self::JobsWrite,
        Self::Realtime,
        Self::Webhooks,
        Self::Admin,
    ];

    /// The scopes of a new key that does not say.
    pub const DEFAULT: [Self; 3] = [Self::JobsRead, Self::JobsWrite, Self::Realtime];

    /// The name used in JSON and SQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobsRead => "jobs:read",
            Self::JobsWrite => "jobs:write",
            Self::Realtime => "realtime",
            Self::Webhooks => "webhooks",
            Self::Admin => "admin",
        }
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    /// Whether the scope allows it.
    #[must_use]
    pub const fn grants(self, permission: Permission) -> bool {
        match self {
            Self::Admin => true,
            Self::JobsRead => matches!(
                permission,
                Permission::JobRead
                    | Permission::JobReadOwn
                    | Permission::ModelRead
                    | Permission::SessionRead
            ),
            Self::JobsWrite => matches!(
                permission,
                Permission::JobCreate
                    | Permission::JobUpdateOwn
                    | Permission::JobCancelOwn
                    | Permission::JobDeleteOwn
            ),
            Self::Realtime | Self::Webhooks => false,
        }
    }
}

impl Permission {
    /// The name told to a caller that lacks it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobCreate => "job:create",
            Self::JobRead => "job:read",
            Self::JobReadOwn => "job:read:own",
            Self::JobUpdateOwn => "job:update:own",
            Self::JobCancelOwn => "job:cancel:own",
            Self::JobDeleteOwn => "job:delete:own",
            Self::ModelRead => "model:read",
            Self::ModelWrite => "model:write",
            Self::ModelPull => "model:pull",
            Self::ModelDelete => "model:delete",
            Self::ModelSync => "model:sync",
            Self::SessionRead => "session:read",
            Self::ApiKeyCreate => "api_key:create",
            Self::ApiKeyList => "api_key:list",
            Self::ApiKeyRevoke => "api_key:revoke",
        }
    }
}
