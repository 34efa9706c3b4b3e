"""One view reads through the cache, the other writes past it."""

import os

from django.db import connection, transaction
from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from people.caching import cache, profile
from people.models import Person


@require_GET
def person(request: HttpRequest, person_id: int) -> JsonResponse:
    return _shown(person_id)


@csrf_exempt  # the project has no sessions
@require_POST
def upgrade(request: HttpRequest, person_id: int) -> JsonResponse:
    with transaction.atomic(), connection.cursor() as cursor:
        # `update` sends no signal. The database captures the change, so nothing here names a key.
        Person.objects.filter(id=person_id).update(plan="team")
        cursor.execute("select unstale.token()")
        (token,) = cursor.fetchone()
    cache.wait_for(token)  # this process serves nothing older from here on
    return _shown(person_id)


def _shown(person_id: int) -> JsonResponse:
    found = profile(person_id)
    if found is None:
        raise Http404(f"There is no person {person_id}.")
    return JsonResponse(found | {"process": os.getpid()})
