"""The whole of a stack."""

import pulumi_aws as aws
from pulumi import ComponentResource, InvokeOptions, Output, ResourceOptions

from components.dashboard import Dashboard, DashboardArgs
from components.encryption import Encryption, EncryptionArgs
from components.image_repository import ImageRepository, ImageRepositoryArgs
from components.model_store import ModelStore, ModelStoreArgs
from components.monitoring import Monitoring, MonitoringArgs
from components.network import (
    SUBNET_CIDR_BLOCKS,
    Existing,
    Mode,
    Network,
    NetworkArgs,
    Private,
    Public,
)
from components.notices import Notices, NoticesArgs
from components.policies import AwsScope, KeyScope
from components.push_trigger import PushTrigger, PushTriggerArgs
from components.settings import Settings
from components.trainer_image import TrainerImage, TrainerImageArgs
from components.training_task import TrainingTask, TrainingTaskArgs


class TrainingPipeline(ComponentResource):
    """Every image pushed to its repository is trained, and the model lies in its bucket."""

    encryption: Encryption | None
    """None where AWS's own keys are good enough."""
    network: Network
    store: ModelStore
    repository: ImageRepository
    task: TrainingTask
    notices: Notices
    trigger: PushTrigger
    dashboard: Dashboard | None
    monitoring: Monitoring | None
    """None where nobody shall be told."""
    image: TrainerImage | None
    """None where CI builds."""

    def __init__(self, name: str, settings: Settings, opts: ResourceOptions | None = None) -> None:
        super().__init__("pushtrain:pipeline:TrainingPipeline", name, None, opts)
        child = ResourceOptions(parent=self)
        look_up = InvokeOptions(parent=self)

        scope = AwsScope(
            partition=aws.get_partition_output(opts=look_up).partition,
            region=aws.get_region_output(opts=look_up).region,
            account=aws.get_caller_identity_output(opts=look_up).account_id,
        )
        self.encryption = (
            Encryption(
                f"{name}-encryption",
                EncryptionArgs(
                    stack=settings.stack,
                    resources=name,
                    container_insights=settings.container_insights,
                    scope=scope,
                    destroyable=settings.destroyable,
                ),
                child,
            )
            if settings.customer_key
            else None
        )
        self.repository = ImageRepository(
            f"{name}-images",
            ImageRepositoryArgs(
                immutable_tags=not settings.image_build,
                destroyable=settings.destroyable,
                key_arn=self.encryption.key_arn if self.encryption else None,
            ),
            child,
        )
        # Refused for images that are there already, the key shall not be on half of the rest.
        key_arn = self.repository.key_arn
        key = KeyScope(key_arn=key_arn, region=scope.region) if key_arn else None
        self.store = ModelStore(
            f"{name}-store",
            ModelStoreArgs(
                checkpoint_retention_days=settings.checkpoint_retention_days,
                old_version_retention_days=settings.old_version_retention_days,
                destroyable=settings.destroyable,
                data_path=settings.data_path,
                key_arn=key_arn,
            ),
            child,
        )
        self.task = TrainingTask(
            f"{name}-training",
            TrainingTaskArgs(
                stack=settings.stack,
                cpu=settings.cpu,
                memory=settings.memory,
                architecture=settings.architecture,
                container_insights=settings.container_insights,
                log_retention_days=settings.log_retention_days,
                permissions_boundary=settings.permissions_boundary,
                key=key,
                secrets=settings.secrets,
                repository=self.repository,
                bucket_arn=self.store.bucket_arn,
                scope=scope,
            ),
            child,
        )
        self.network = Network(
            f"{name}-network",
            NetworkArgs(
                bucket_arn=self.store.bucket_arn, mode=self._mode(settings, look_up), scope=scope
            ),
            child,
        )
        self.notices = Notices(
            f"{name}-notices",
            NoticesArgs(
                emails=settings.notify_emails,
                webhooks=settings.notify_webhooks,
                key_arn=key_arn,
                alarms=settings.alarms,
                resources=name,
                scope=scope,
            ),
            child,
        )
        self.trigger = PushTrigger(
            f"{name}-trigger",
            PushTriggerArgs(
                stack=settings.stack,
                cpu=settings.cpu,
                memory=settings.memory,
                architecture=settings.architecture,
                spot=settings.spot,
                parameters=settings.parameters,
                max_concurrent_runs=settings.max_concurrent_runs,
                max_run_minutes=settings.max_run_minutes,
                champion_metric=settings.champion_metric,
                champion_goal=settings.champion_goal,
                metrics=settings.metrics,
                tag_prefixes=settings.image_tag_prefixes,
                log_retention_days=settings.log_retention_days,
                permissions_boundary=settings.permissions_boundary,
                key=key,
                repository=self.repository,
                network=self.network,
                store=self.store,
                task=self.task,
                notices=self.notices,
                scope=scope,
            ),
            child,
        )
        self.monitoring = (
            Monitoring(
                f"{name}-monitoring",
                MonitoringArgs(
                    stack=settings.stack,
                    no_model_hours=settings.alarms_no_model_hours,
                    functions={
                        "invoke": self.trigger.invoke,
                        "observe": self.trigger.observe,
                        "reconcile": self.trigger.reconcile,
                    },
                    topic_arn=self.notices.topic_arn,
                ),
                child,
            )
            if settings.alarms
            else None
        )
        self.dashboard = (
            Dashboard(
                f"{name}-dashboard",
                DashboardArgs(
                    stack=settings.stack,
                    champion_metric=settings.champion_metric,
                    region=scope.region,
                    log_groups=(
                        self.trigger.observe.log_group_name,
                        self.trigger.reconcile.log_group_name,
                    ),
                ),
                child,
            )
            if settings.dashboard
            else None
        )
        self.image = (
            TrainerImage(
                f"{name}-trainer",
                TrainerImageArgs(
                    context=settings.image_context,
                    args=settings.image_args,
                    platform=settings.platform,
                    repository=self.repository,
                    registry=settings.image_registry,
                ),
                # The push comes last: it is the event that all of these are there for.
                ResourceOptions(
                    parent=self,
                    depends_on=[
                        self.store,
                        self.repository,
                        self.network,
                        self.task,
                        self.notices,
                        self.trigger,
                    ],
                ),
            )
            if settings.image_build
            else None
        )

        self.outputs: dict[str, Output[str] | str] = {
            "bucket": self.store.bucket_name,
            "networkIdleCost": self.network.idle_cost,
            "repositoryUrl": self.repository.url,
            "cluster": self.task.cluster_arn,
            "logGroup": self.task.log_group_name,
            "wiringParameter": self.trigger.wiring_name,
            "trainingParameter": self.trigger.parameters_name,
            "invokeFunction": self.trigger.invoke.function_name,
            "observeFunction": self.trigger.observe.function_name,
            "reconcileFunction": self.trigger.reconcile.function_name,
            "topic": self.notices.topic_arn,
            "failedPushes": self.trigger.invoke.failed_queue_url,
            "failedEnds": self.trigger.observe.failed_queue_url,
            "undeliveredPushes": self.trigger.invoke.undelivered_queue_url,
            "undeliveredEnds": self.trigger.observe.undelivered_queue_url,
            **({"image": self.image.uri} if self.image else {}),
        }
        self.register_outputs(self.outputs)

    def _mode(self, settings: Settings, look_up: InvokeOptions) -> Mode:
        """Return the network that the settings ask for."""
        if settings.network == "existing":
            return Existing(
                vpc_id=settings.network_vpc_id,
                subnet_ids=settings.network_subnet_ids,
                assign_public_ip=settings.network_assign_public_ip,
            )
        # Names are part of the subnets' own, so they are needed now; local zones run no Fargate.
        names = aws.get_availability_zones(
            state="available",
            filters=[{"name": "opt-in-status", "values": ["opt-in-not-required"]}],
            opts=look_up,
        ).names
        zones = tuple(sorted(names)[: len(SUBNET_CIDR_BLOCKS)])
        if settings.network == "public":
            return Public(zones=zones)
        return Private(
            zones=zones,
            repository_arn=self.repository.arn,
            log_group_arn=self.task.log_group_arn,
            secret_arns=tuple(settings.secrets.values()),
        )
