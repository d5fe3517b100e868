-- offered_capabilities: what the live workers can run between them; what the planner plans with.
create view offered_capabilities as
select distinct on (k.id) k.id as capability_id, k.stage, k.engine, k.model,
       capability_offer(k, c) || case when m.overrides ? 'languages'
         then jsonb_build_object('languages', m.overrides->'languages') else '{}' end as offer
  from workers w
  join worker_capabilities c on c.worker_id = w.id
  join capabilities k on k.id = c.capability_id
  left join models m on m.id = k.model
 where not w.draining and w.last_seen_at > dalston_now() - interval '1 min'
 order by k.id, c.device desc, w.started_at desc;

comment on view offered_capabilities is 'What the live workers can run between them, one row per capability; where several offer the same, cuda goes before cpu, then the newest worker.';
comment on column offered_capabilities.capability_id is 'Number of the capability, as in tasks.';
comment on column offered_capabilities.offer is 'Stage, engine, model and what a planner must know, as JSON.';
