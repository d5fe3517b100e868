-- job_history: the job log with one line for each event. What the API streams, and what operators read.
create view job_history as
select l.id, l.id as log_id, l.job_id, l.at, l.type, l.body
  from job_log l
 where l.tasks is null
union all
select l.id + a.n - 1, l.id, l.job_id, l.at, l.type,
       jsonb_strip_nulls(jsonb_build_object('task_id', a.id, 'stage', k.stage, 'name', t.name))
  from job_log l
  cross join unnest(l.tasks) with ordinality as a (id, n)
  left join tasks t on t.id = a.id
  left join capabilities k on k.id = t.capability_id
 where l.tasks is not null;

comment on view job_history is 'What happened to each job, one line for each event, in the order of id.';
comment on column job_history.id is 'What a client sends back as Last-Event-ID.';
comment on column job_history.log_id is 'Its row of job_log, at most 65535 before id; an index has it, so a reader of what came after an id asks for it too.';
comment on column job_history.body is 'More, as a JSON object. A completed task that a retry has removed since is there without its stage and name.';
