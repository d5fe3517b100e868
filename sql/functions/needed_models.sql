-- needed_models: the models that tasks wait for while no worker offers them. Called by the API where jobs may wait for a
-- model, which has those pulled that it knows.
create or replace function needed_models() returns setof text
language sql stable
as $$
  select k.model from capabilities k
   where k.model <> '' and exists (select from ready_tasks q where q.capability_id = k.id) and not capability_is_served(k.id)
   group by k.model order by k.model
$$;
