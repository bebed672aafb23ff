package server

import (
	"context"

	"google.golang.org/grpc"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Pods knows the pods of this node, with the newest status of each. What it answers is shared and must not be changed. All methods may be called by
// many goroutines and answer from memory.
type Pods interface {
	// Pods are all that are bound to this node and not gone yet; static ones as their files say.
	Pods() []*corev1.Pod
	// Pod is one of them. A static pod is found by the name that its mirror pod has.
	Pod(namespace, name string) (*corev1.Pod, bool)
	// Healthy says what keeps the agent from doing its work; nil: nothing.
	Healthy() error
}

// Runtime is what is asked of the runtime; a CRI client has it.
type Runtime interface {
	ListPodSandbox(ctx context.Context, in *criv1.ListPodSandboxRequest, opts ...grpc.CallOption) (*criv1.ListPodSandboxResponse, error)
	ListContainers(ctx context.Context, in *criv1.ListContainersRequest, opts ...grpc.CallOption) (*criv1.ListContainersResponse, error)
	ContainerStatus(ctx context.Context, in *criv1.ContainerStatusRequest, opts ...grpc.CallOption) (*criv1.ContainerStatusResponse, error)
	ExecSync(ctx context.Context, in *criv1.ExecSyncRequest, opts ...grpc.CallOption) (*criv1.ExecSyncResponse, error)
	Exec(ctx context.Context, in *criv1.ExecRequest, opts ...grpc.CallOption) (*criv1.ExecResponse, error)
	Attach(ctx context.Context, in *criv1.AttachRequest, opts ...grpc.CallOption) (*criv1.AttachResponse, error)
	PortForward(ctx context.Context, in *criv1.PortForwardRequest, opts ...grpc.CallOption) (*criv1.PortForwardResponse, error)
}

// Reviews asks the API server who somebody is and what they may do. Answers are cached here.
type Reviews interface {
	Token(ctx context.Context, token string) (authenticationv1.TokenReviewStatus, error)
	Access(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error)
}

// Statistics are the numbers of the node and its pods, taken when they are asked for. onlyCPUAndMemory leaves out what costs more.
type Statistics interface {
	Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsv1alpha1.Summary, error)
}
