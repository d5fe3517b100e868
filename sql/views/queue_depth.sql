-- queue_depth: how much work waits for what, and who can do it.
create view queue_depth as
select k.id as capability_id, k.stage, k.engine, k.model,
       coalesce(q.ready, 0) as ready, coalesce(s.scheduled, 0) as scheduled, coalesce(h.held, 0) as held,
       coalesce(r.running, 0) as running,
       extract(epoch from dalston_now() - q.oldest)::double precision as oldest_wait_seconds,
       coalesce(w.workers, 0) as workers
  from capabilities k
  left join (select capability_id, sum(cardinality(tasks)) as ready, min(ready_at) as oldest from ready_tasks group by 1) q on q.capability_id = k.id
  left join (select t.capability_id, count(*) as running
               from running_tasks n cross join unnest(n.tasks) as u (id) join tasks t on t.id = u.id group by 1) r on r.capability_id = k.id
  left join (select capability_id, count(*) as scheduled from tasks where run_at is not null group by 1) s on s.capability_id = k.id
  left join (select capability_id, count(*) as held from tasks where slot = 1 group by 1) h on h.capability_id = k.id
  left join (select c.capability_id, count(*) as workers
               from worker_capabilities c join workers w on w.id = c.worker_id
              where not w.draining and w.last_seen_at > dalston_now() - interval '1 min' group by 1) w on w.capability_id = k.id
 where q.ready > 0 or r.running > 0 or s.scheduled > 0 or h.held > 0 or w.workers > 0;

comment on view queue_depth is 'How much work waits for each capability, and how many live workers can do it.';
comment on column queue_depth.capability_id is 'Number of the capability, as in tasks.';
comment on column queue_depth.ready is 'Tasks that may be claimed now.';
comment on column queue_depth.scheduled is 'Tasks waiting for their next attempt.';
comment on column queue_depth.held is 'Tasks whose tenant is at its cap.';
comment on column queue_depth.running is 'Tasks being run.';
comment on column queue_depth.oldest_wait_seconds is 'How long the oldest ready task has waited.';
comment on column queue_depth.workers is 'Live workers that can run it; 0 with work waiting means nobody can.';
