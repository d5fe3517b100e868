-- stuck_tasks: what will not move by itself, and why. Empty on a healthy system.
create view stuck_tasks as
select t.id, t.job_id, t.name, task_state(t.state) as state, k.stage, k.engine, k.model, why.reason,
       dalston_now() - coalesce(why.since, j.created_at) as for_how_long
  from current_tasks t
  join jobs j on j.id = t.job_id
  join capabilities k on k.id = t.capability_id
  cross join lateral (
    select 'no live worker can run this' as reason, t.ready_at as since
     where t.state = 1
       and not exists (select from worker_capabilities c join workers w on w.id = c.worker_id
                        where c.capability_id = t.capability_id and not w.draining
                          and w.last_seen_at > dalston_now() - interval '1 min')
    union all
    select 'its lease ran out and nobody rescued it: is maintenance running?', t.lease_expires_at
     where t.state = 2 and t.lease_expires_at < dalston_now() - interval '30 s'
    union all
    select 'its next attempt is overdue: is maintenance running?', t.run_at
     where t.state = 7 and t.run_at < dalston_now() - interval '30 s'
    union all
    select 'held, although its tenant has room', t.ready_at
     where t.state = 8
       and (select n.max_running is null
                   or n.max_running > (select count(*) from tasks o where o.tenant_id = n.id and o.slot = 2)
              from tenants n where n.id = t.tenant_id)
    union all
    select 'waits for tasks that are all done', t.ready_at
     where t.state = 0
       and not exists (select from task_edges e join tasks p on p.id = e.parent_id
                        where e.job_id = t.job_id and e.child_id = t.id and p.state not in (3, 5))
  ) why
 where t.state in (0, 1, 2, 7, 8) and j.completed_at is null;

comment on view stuck_tasks is 'Tasks that will not move by themselves, and why. Empty on a healthy system.';
comment on column stuck_tasks.id is 'The task.';
comment on column stuck_tasks.job_id is 'Its job.';
comment on column stuck_tasks.state is 'pending, ready, running, scheduled (waits for its next attempt) or held (its tenant is at its cap).';
comment on column stuck_tasks.reason is 'What is wrong.';
comment on column stuck_tasks.for_how_long is 'How long that has been so.';
