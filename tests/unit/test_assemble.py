"""Where objects are read follows the settings: the general ones, then the tenant's, then the storage's."""

from hashmill.assemble import storage_config
from hashmill.settings import S3


def test_a_tenant_or_storage_may_be_read_without_asking_for_checksums() -> None:
    s3 = S3(
        tenants={"careful": {"provider_checksums": False}},
        storages={"7": {"provider_checksums": True}, "8": {"bucket": "other"}},
    )

    def asks(tenant_id: str, storage_id: str | None = None) -> bool:
        return storage_config(s3, tenant_id=tenant_id, storage_id=storage_id).provider_checksums

    assert asks("default")
    assert not asks("careful")
    assert not asks("careful", "8")
    assert asks("careful", "7")
    assert not storage_config(S3(provider_checksums=False), tenant_id="default", storage_id=None).provider_checksums
