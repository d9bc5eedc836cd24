"""KubeRay's schemas of RayCluster and RayJob, as far as ``cluster/kuberay`` uses them; unknown fields are refused.

Written by hand after ray-project/kuberay, apis/ray/v1 (the CRDs are generated from it): raycluster_types.go at commit
026f143, rayjob_types.go at 0057210, and `authOptions`, which KubeRay has since 1.5.1, after its sample
ray-cluster.auth.secret-ref.yaml at a3ae232. Of pods: Kubernetes' core/v1.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITY: Schema = {
    "type": "string",
    "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][0-9]+)?$",
}


def fields(required: str = "", **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def several(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def one_of(*words: str) -> Schema:
    return {"enum": list(words)}


QUANTITIES: Schema = {"type": "object", "additionalProperties": QUANTITY}
RESOURCES = fields(requests=QUANTITIES, limits=QUANTITIES)
VARIABLE = fields(
    "name", name=TEXT, value=TEXT, valueFrom=fields(secretKeyRef=fields("key", name=TEXT, key=TEXT, optional=FLAG))
)
SECURITY = fields(allowPrivilegeEscalation=FLAG, runAsNonRoot=FLAG, runAsUser=COUNT)
CONTAINER = fields(
    "name image",
    name=TEXT,
    image=TEXT,
    env=several(VARIABLE),
    ports=several(fields("containerPort", containerPort={**COUNT, "maximum": 65535}, name=TEXT)),
    resources=RESOURCES,
    securityContext=SECURITY,
    volumeMounts=several(fields("name mountPath", name=TEXT, mountPath=TEXT, readOnly=FLAG)),
)
VOLUME = fields(
    "name",
    name=TEXT,
    configMap=fields(name=TEXT),
    persistentVolumeClaim=fields("claimName", claimName=TEXT),
    emptyDir=fields(medium=one_of("", "Memory"), sizeLimit=QUANTITY),
)
TOLERATION = fields(
    key=TEXT,
    operator=one_of("Equal", "Exists"),
    value=TEXT,
    effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
)
POD = fields(
    "containers",
    containers={**several(CONTAINER), "minItems": 1},
    volumes=several(VOLUME),
    nodeSelector=TEXTS,
    tolerations=several(TOLERATION),
    terminationGracePeriodSeconds=COUNT,
)
TEMPLATE = fields("spec", spec=POD)
HEAD = fields(
    "template", serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"), rayStartParams=TEXTS, template=TEMPLATE
)
WORKERS = fields(
    "groupName template minReplicas maxReplicas",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER_SPEC = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=fields(mode=one_of("token", "disabled"), secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=fields(
        idleTimeoutSeconds=COUNT, upscalingMode=one_of("Default", "Aggressive", "Conservative"), resources=RESOURCES
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=several(WORKERS),
)
JOB_SPEC = fields(
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode"),
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=CLUSTER_SPEC,
)


def document(kind: str, spec: Schema) -> Schema:
    return fields(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=fields("name", name={**TEXT, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
        spec=spec,
    )


DOCUMENTS = {"cluster.yaml": document("RayCluster", CLUSTER_SPEC), "job.yaml": document("RayJob", JOB_SPEC)}
