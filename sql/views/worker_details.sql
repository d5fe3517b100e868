-- worker_details: a worker as the API reads it.
create view worker_details as
select w.id, w.hostname, w.version, w.device, w.slots, w.active_tasks, w.loaded_models, w.model_bytes,
       case when w.last_seen_at <= dalston_now() - interval '1 min' then 'silent'
            when w.draining then 'draining' else 'live' end as status,
       w.started_at, w.last_seen_at,
       (select coalesce(jsonb_agg(capability_offer(k, c) order by k.stage, k.engine, k.model), '[]')
          from worker_capabilities c join capabilities k on k.id = c.capability_id where c.worker_id = w.id) as capabilities
  from workers w;

comment on view worker_details is 'A worker as the API reads it. Operators look at worker_status.';
comment on column worker_details.id is 'The worker.';
comment on column worker_details.status is 'live, draining, or silent: no heartbeat for a minute.';
comment on column worker_details.capabilities is 'What it can run, as JSON.';
