package pullsecret

import (
	"encoding/base64"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestKeyring(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("auth:pa:ss"))
	text := fmt.Sprintf(`{"auths": {"registry.example:5000": {"username": "host", "password": "p"}, "registry.example:5000/team": {"username": "team"},
		"*.example.org": {"auth": %q}, "https://index.docker.io/v1/": {"username": "hub"}}}`, auth)
	ring, err := New([]*corev1.Secret{
		{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(text)}},
		{Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"old.example": {"username": "old"}}`)}},
		{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]string{
		"registry.example:5000/app:1":         "[host]",
		"registry.example:5000/team/app@sha1": "[team host]",
		"registry.example/app":                "[]",
		"a.example.org/app":                   "[auth]",
		"a.b.example.org/app":                 "[]",
		"busybox":                             "[hub]",
		"docker.io/team/app:2":                "[hub]",
		"old.example/x":                       "[old]",
	} {
		names := []string{}
		for _, c := range ring.For(image) {
			names = append(names, c.Username)
		}
		if got := fmt.Sprint(names); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
	if c := ring.For("a.example.org/app"); c[0].Password != "pa:ss" {
		t.Errorf("password %q", c[0].Password)
	}
	if _, err := New([]*corev1.Secret{{Type: corev1.SecretTypeDockerConfigJson}}); err == nil {
		t.Error("an empty document passed")
	}
}
