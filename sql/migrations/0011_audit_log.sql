create table audit_log (
  id             bigint generated always as identity primary key,
  timestamp      timestamptz not null,
  correlation_id text,
  tenant_id      uuid,
  actor_type     text not null check (actor_type in ('api_key', 'session_token', 'system')),
  actor_id       text not null,
  action         text not null,
  resource_type  text not null,
  resource_id    text not null,
  detail         jsonb,
  ip_address     text,
  user_agent     text
);

create index audit_log_of_resource on audit_log (resource_type, resource_id, id);
create index audit_log_by_time on audit_log (timestamp);

comment on table audit_log is 'Who did what to which resource. Append-only, never trimmed.';
comment on column audit_log.id is 'Grows; also the cursor of lists.';
comment on column audit_log.timestamp is 'When.';
comment on column audit_log.correlation_id is 'X-Request-ID of the request.';
comment on column audit_log.tenant_id is 'Tenant concerned.';
comment on column audit_log.actor_type is 'api_key, session_token or system.';
comment on column audit_log.actor_id is 'Key prefix or id of who did it.';
comment on column audit_log.action is 'For example job.created.';
comment on column audit_log.resource_type is 'For example job.';
comment on column audit_log.resource_id is 'Id of the resource.';
comment on column audit_log.detail is 'More, as JSON.';
comment on column audit_log.ip_address is 'Address of the client.';
comment on column audit_log.user_agent is 'User-Agent of the client.';
