-- worker_status: every worker on one line.
create view worker_status as
select d.id, d.hostname as host, d.status, d.device, d.slots,
       (select coalesce(sum(cardinality(r.tasks)), 0) from running_tasks r where r.worker_id = d.id) as running,
       d.active_tasks as said_running, d.loaded_models, d.version, d.started_at,
       dalston_now() - d.last_seen_at as last_heartbeat,
       (select string_agg(concat_ws('/', c->>'stage', nullif(c->>'engine', ''), nullif(c->>'model', '')), ', ')
          from jsonb_array_elements(d.capabilities) as e (c)) as can_run
  from worker_details d
 order by d.hostname, d.started_at;

comment on view worker_status is 'Every worker on one line.';
comment on column worker_status.id is 'The worker.';
comment on column worker_status.host is 'Host it runs on.';
comment on column worker_status.status is 'live, draining, or silent: no heartbeat for a minute.';
comment on column worker_status.running is 'Tasks it holds according to the database.';
comment on column worker_status.said_running is 'Tasks it said it was running at its last heartbeat.';
comment on column worker_status.last_heartbeat is 'How long ago it last said anything.';
comment on column worker_status.can_run is 'What it can run: stage/engine/model.';
