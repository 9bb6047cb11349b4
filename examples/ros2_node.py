"""A ROS 2 node around one model. It needs only std_msgs, so there is nothing to build with colcon.

    source /opt/ros/humble/setup.bash && python3 examples/ros2_node.py --ros-args -p deadline:=2.0
    ros2 topic echo /tinyrwkv/response &
    ros2 topic pub --once /tinyrwkv/prompt std_msgs/String "data: turn left"

It reads the topics ~/prompt and ~/stop. It writes the pieces of an answer to ~/partial as they
come, and the whole answer to ~/response. With the constraint "scripts", the response is a JSON
object of text, logprob, decision ("run", "ask", "refuse" or "unknown") and reasons, as docs/mqtt.md
describes them: act on the decision. A new prompt, or any message on ~/stop, cancels the answer
before it. docs/vendoring.md compares the names with those of llama_ros. The node was tested only
with a stand-in for rclpy.
"""

import contextlib
import json
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

try:
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.node import Node
    from std_msgs.msg import Empty, String

    import tinyrwkv
    from tinyrwkv.chat.templates import template
    from tinyrwkv.robot.confidence import Weighed
    from tinyrwkv.robot.scripts import Scripts
    from tinyrwkv.robot.told import told
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is missing: install ROS 2 and NumPy, and source ROS 2's setup.bash")

PARAMETERS = {
    "model": "",
    "threads": 1,
    "max_tokens": 200,
    "deadline": 5.0,
    "temperature": 0.0,
    "constraint": "",
}


class Brain(Node):
    """Answers prompts one at a time, in a thread.

    The parameter constraint is "scripts" for a robot, or texts separated by |.
    """

    def __init__(self):
        super().__init__("tinyrwkv")
        given = {}
        for name, value in PARAMETERS.items():
            given[name] = self.declare_parameter(name, value).value
        self.model = tinyrwkv.load(given["model"] or None, threads=given["threads"])
        self.seconds = given["deadline"]
        self.template = template(self.model.config.get("template", "chat"))
        self.how = {
            "max_tokens": given["max_tokens"],
            "sampler": tinyrwkv.Sampler(temperature=given["temperature"]),
        }
        form = given["constraint"]
        self.scripts = Scripts() if form == "scripts" else None
        if form and not self.scripts:
            self.how["constraint"] = tinyrwkv.Choice(form.split("|"), prefix=" ")
        self.partial = self.create_publisher(String, "~/partial", 10)
        self.response = self.create_publisher(String, "~/response", 10)
        self.create_subscription(String, "~/prompt", self.ask, 10)
        self.create_subscription(Empty, "~/stop", self.stop, 10)
        self.worker = self.generation = None

    def ask(self, message):
        """Begin to answer a prompt."""
        self.stop()
        how = self.how | {"stop": self.template.stop, "deadline": time.monotonic() + self.seconds}
        weighed = Weighed(self.scripts.with_any_number()) if self.scripts else None
        how |= {"constraint": weighed} if weighed else {}
        self.generation = self.model.generate(self.template.turn(message.data), **how)
        what = (message.data, self.generation, weighed)
        self.worker = threading.Thread(target=self.answer, args=what)
        self.worker.start()

    def answer(self, command, generation, weighed):
        """Publish an answer piece by piece, then all of the text that has come."""
        logprob = 0.0
        for piece in generation:
            logprob += piece.logprob
            if rclpy.ok():
                self.partial.publish(String(data=piece.text))
        text = generation.result.text.strip()
        if weighed:
            logprob += weighed.log_share
            text = json.dumps(told(command, generation.result, logprob, self.scripts))
        if rclpy.ok():
            self.response.publish(String(data=text))
            self.get_logger().info(f"ended by {generation.result.stop_reason}")

    def stop(self, message=None):
        """Cancel the present answer, and wait a few milliseconds until it has ended."""
        if self.worker is not None:
            self.generation.cancel()
            self.worker.join()


def main():
    """Run until the node is shut down."""
    rclpy.init()
    node = Brain()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    node.stop()


if __name__ == "__main__":
    main()
