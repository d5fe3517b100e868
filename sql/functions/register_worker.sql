-- register_worker: a worker introduces itself and what it can run (a JSON array of OfferedCapability), and learns the
-- capabilities' numbers in the order given. Registering again replaces what was said before. Earlier runs of the same
-- identity are dead: their tasks are rescued at once. Called by workers when they start and when a heartbeat finds
-- them forgotten.
create or replace function register_worker(
  p_worker uuid, p_hostname text, p_identity text, p_version text, p_device text, p_slots int, p_offered jsonb,
  out capability_ids int[], out ready int[], out jobs uuid[]
)
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_earlier uuid;
  v_rescued record;
begin
  ready := '{}';
  jobs := '{}';
  insert into workers (id, hostname, identity, version, device, slots, started_at, last_seen_at)
  values (p_worker, p_hostname, p_identity, p_version, p_device, p_slots, v_now, v_now)
  on conflict (id) do update
    set hostname = excluded.hostname, identity = excluded.identity, version = excluded.version,
        device = excluded.device, slots = excluded.slots, last_seen_at = excluded.last_seen_at;

  select coalesce(array_agg(capability_id(o->>'stage', o->>'engine', o->>'model') order by n), '{}') into capability_ids
    from jsonb_array_elements(p_offered) with ordinality as e (o, n);
  delete from worker_capabilities where worker_id = p_worker;
  insert into worker_capabilities (worker_id, capability_id, languages, native_words, translates, size_bytes, device,
                                   vocabulary_method, alignment_method, streaming, max_audio_seconds, memory_bytes,
                                   execution_provider)
  select p_worker, capability_ids[n],
         case when jsonb_typeof(o->'languages') = 'array'
              then array(select jsonb_array_elements_text(o->'languages')) end,
         (o->>'native_words')::boolean, (o->>'translates')::boolean, (o->>'size_bytes')::bigint, o->>'device',
         o->>'vocabulary_method', o->>'alignment_method', coalesce((o->>'streaming')::boolean, false),
         (o->>'max_audio_seconds')::double precision, coalesce((o->>'memory_bytes')::bigint, 0),
         coalesce(o->>'execution_provider', '')
    from jsonb_array_elements(p_offered) with ordinality as e (o, n)
  on conflict do nothing;

  for v_earlier in select id from workers where identity = p_identity and id <> p_worker order by id loop
    v_rescued := rescue_tasks(10000, v_earlier);
    ready := ready || v_rescued.ready;
    jobs := jobs || v_rescued.jobs;
    delete from workers where id = v_earlier;
  end loop;
end
$$;
