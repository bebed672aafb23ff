package rpc

import (
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// subject is what a call is about, for its log line and its trace. It is made of the few fields listed here and never of a whole message:
// requests carry credentials (AuthConfig) and whatever secrets a pod has in its environment.
type subject struct {
	sandbox, container, image, pod, name string
}

// of reads what a request or an answer says about its subject.
func (s *subject) of(message any) {
	if m, ok := message.(interface{ GetPodSandboxId() string }); ok && m.GetPodSandboxId() != "" {
		s.sandbox = m.GetPodSandboxId()
	}
	if m, ok := message.(interface{ GetContainerId() string }); ok && m.GetContainerId() != "" {
		s.container = m.GetContainerId()
	}
	if m, ok := message.(interface{ GetImage() *criv1.ImageSpec }); ok {
		s.image = m.GetImage().GetImage()
	}
	switch m := message.(type) {
	case *criv1.RunPodSandboxRequest:
		s.pod = m.GetConfig().GetMetadata().GetNamespace() + "/" + m.GetConfig().GetMetadata().GetName()
	case *criv1.CreateContainerRequest:
		s.name = m.GetConfig().GetMetadata().GetName()
		s.image = m.GetConfig().GetImage().GetImage()
	}
}

func (s *subject) each(do func(key, value string)) {
	for _, f := range []struct{ key, value string }{
		{"sandbox", s.sandbox}, {"container", s.container}, {"image", s.image}, {"pod", s.pod}, {"name", s.name},
	} {
		if f.value != "" {
			do(f.key, f.value)
		}
	}
}

func (s *subject) logged() []slog.Attr {
	var out []slog.Attr
	s.each(func(key, value string) { out = append(out, slog.String(key, value)) })
	return out
}

func (s *subject) traced() []attribute.KeyValue {
	var out []attribute.KeyValue
	s.each(func(key, value string) { out = append(out, attribute.String("cri."+key, value)) })
	return out
}
