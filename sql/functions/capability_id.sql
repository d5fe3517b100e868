-- capability_id: the number of a stage, engine and model, made if it is new. Called by register_worker and add_tasks.
create or replace function capability_id(p_stage text, p_engine text, p_model text) returns int
language plpgsql
as $$
declare
  v_id int;
begin
  select id into v_id from capabilities where stage = p_stage and engine = p_engine and model = p_model;
  if v_id is null then
    insert into capabilities (stage, engine, model) values (p_stage, p_engine, p_model)
      on conflict do nothing returning id into v_id;
  end if;
  if v_id is null then  -- somebody else made it since
    select id into v_id from capabilities where stage = p_stage and engine = p_engine and model = p_model;
  end if;
  return v_id;
end
$$;
