-- What was sent: the messages of campaigns, which come with their campaign, and those of flows, which no listing
-- names and which are known from the flows' daily series.
with
listing as (
    select bool_or(run_windows.is_complete) as is_complete
    from run_windows
    where run_windows.stream = 'campaigns'
    having count(*) > 0
),

campaign_messages as (
    select
        message.value ->> 'id' as message_id,
        'CAMPAIGN' as kind,
        staged.payload ->> 'id' as parent_id,
        staged.payload #>> '{attributes,name}' as parent_name,
        message.value #>> '{attributes,definition,channel}' as channel,
        message.value #>> '{attributes,definition,label}' as label,
        message.value #>> '{attributes,definition,content,subject}' as subject,
        staged.payload #>> '{attributes,status}' as status,
        (staged.payload #>> '{attributes,send_time}')::timestamptz as send_at,
        coalesce((staged.payload #>> '{attributes,archived}')::boolean, false) as is_archived,
        false as is_deleted
    from listing
    cross join staging_ingest.klaviyo_campaigns as staged
    cross join lateral jsonb_array_elements(
        case jsonb_typeof(staged.payload -> 'campaign_messages')
            when 'array' then staged.payload -> 'campaign_messages'
            else '[]'
        end
    ) as message
    where
        staged.connection_id = %(connection_id)s
        and staged.report_key = 'campaigns'
        and message.value ->> 'id' is not null
),

series_messages as (
    select
        staged.payload ->> 'flow_message_id' as message_id,
        staged.payload ->> 'flow_id' as flow_id,
        staged.payload ->> 'send_channel' as channel
    from run_windows
    inner join staging_ingest.klaviyo_flow_series as staged
        on
            run_windows.stream = staged.report_key
            and staged.record_date between run_windows.first_day and run_windows.last_day
    where staged.connection_id = %(connection_id)s and run_windows.stream = 'flow_series'
    union all
    select dim.message_id, dim.parent_id as flow_id, dim.channel
    from core_warehouse.dim_klaviyo_message as dim
    where dim.connection_id = %(connection_id)s and dim.kind = 'FLOW'
),

flow_messages as (
    select
        seen.message_id,
        'FLOW' as kind,
        seen.flow_id as parent_id,
        flow.name as parent_name,
        seen.channel,
        null as label,
        null as subject,
        flow.status,
        null::timestamptz as send_at,
        coalesce(flow.is_archived, false) as is_archived,
        coalesce(flow.is_deleted, false) as is_deleted
    from (
        select message_id, max(flow_id) as flow_id, max(channel) as channel
        from series_messages
        group by message_id
    ) as seen
    left join core_warehouse.dim_klaviyo_flow as flow
        on flow.connection_id = %(connection_id)s and seen.flow_id = flow.flow_id
),

-- An id is one message, whatever lists it; a campaign's own listing knows more of it.
source as materialized (
    select distinct on (message_id)
        message_id, kind, parent_id, parent_name, channel, label, subject, status, send_at, is_archived, is_deleted
    from (
        select * from campaign_messages
        union all
        select * from flow_messages
    ) as listed
    order by message_id, kind, parent_id
),

stored as (
    select dim.ctid as place, listing.is_complete, dim.*
    from core_warehouse.dim_klaviyo_message as dim
    left join listing on dim.kind = 'CAMPAIGN'
    where dim.connection_id = %(connection_id)s
),

-- A full join is hashed or merged. Any other may be looped while the planner believes the tables to be empty, and then
-- every row meets every other.
compared as (
    select stored.place, source.*, stored.is_complete and not stored.is_deleted as is_gone
    from stored
    full join source on stored.message_id = source.message_id
    where
        source.message_id is null
        or stored.place is null
        or (
            stored.kind, stored.parent_id, stored.parent_name, stored.channel, stored.label, stored.subject,
            stored.status, stored.send_at, stored.is_archived, stored.is_deleted
        ) is distinct from (
            source.kind, source.parent_id, source.parent_name, source.channel, source.label, source.subject,
            source.status, source.send_at, source.is_archived, source.is_deleted
        )
),

gone as (
    update core_warehouse.dim_klaviyo_message as dim
    set is_deleted = true, loaded_at = now()
    where dim.ctid = any(array(select place from compared where message_id is null and is_gone))
)

insert into core_warehouse.dim_klaviyo_message as dim (
    connection_id, message_id, kind, parent_id, parent_name, channel, label, subject, status, send_at, is_archived,
    is_deleted
)
select
    %(connection_id)s::uuid, message_id, kind, parent_id, parent_name, channel, label, subject, status, send_at,
    is_archived, is_deleted
from compared
where message_id is not null
on conflict (connection_id, message_id) do update set
    kind = excluded.kind,
    parent_id = excluded.parent_id,
    parent_name = excluded.parent_name,
    channel = excluded.channel,
    label = excluded.label,
    subject = excluded.subject,
    status = excluded.status,
    send_at = excluded.send_at,
    is_archived = excluded.is_archived,
    is_deleted = excluded.is_deleted,
    loaded_at = now()
